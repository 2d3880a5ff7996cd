"""Teaching examples, trained and drawn: `andon gallery`."""
