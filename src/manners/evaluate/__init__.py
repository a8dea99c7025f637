"""Evaluation: is it really better?"""
