"""`trust_and_split`: two agents talk about hidden hands and then divide coins."""
