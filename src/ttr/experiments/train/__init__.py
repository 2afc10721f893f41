"""``ttr train``: a language model of any memories, trained by transformers' Trainer and Accelerate."""
