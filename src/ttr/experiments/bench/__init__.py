"""How fast the memories run beside other implementations of them: what ``ttr bench`` does."""
