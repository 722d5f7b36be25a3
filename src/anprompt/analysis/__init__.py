"""What a trained method is worth beyond its accuracy: how far answers depend on the wording."""
