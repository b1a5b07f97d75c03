"""What the tools answer: one model for each answer, with the text that states its facts."""
