"""Losses as pure functions: tensors in, unreduced tensors out; hyper-parameters are keyword floats."""
