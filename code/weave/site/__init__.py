"""Shows the book as a finished site, through MkDocs."""
