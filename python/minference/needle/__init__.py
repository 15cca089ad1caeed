"""The embedded long-context model, models/needle: where it is, and prompts whose answers are known."""
