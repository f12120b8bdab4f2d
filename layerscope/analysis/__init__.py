"""Questions about stacks: one file a question, pure functions over the walk."""
