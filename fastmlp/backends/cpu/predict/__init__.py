"""Predictions of few rows and of many, without a training workspace."""
