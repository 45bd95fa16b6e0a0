"""Research on trained models: minutes to hours each, apart from the measurements of speed."""
