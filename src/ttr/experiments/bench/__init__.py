"""``ttr bench``: the speed of the memories compared with other implementations of them."""
