"""From files to records, and from records to token ids and targets; which method will learn from them is not known here."""
