"""What is common to social dilemmas: metrics of a society's episodes and Schelling diagrams."""
