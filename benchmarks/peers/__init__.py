"""What a user would pick instead of cnnlive, asked the same questions about the same nets in one run."""
