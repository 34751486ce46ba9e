"""What theory says about the matrix games, as pure functions that tests and analyses call."""
