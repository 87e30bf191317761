"""The pages of the documentation that are made from the code, each by one file, and how formulas are drawn."""
