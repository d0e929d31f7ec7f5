"""What is looked for in which run: rules as people write them, and what they would have found."""
