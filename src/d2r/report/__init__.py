"""Tables, figures and pages for human readers."""
