"""What tables and graphs say about networks: plain arrays in, numbers out."""
