"""What the commands are called and what they take; each imports its work when it is called."""
