"""report.html: what a pre-training run was, how it went and what it learnt, as one page."""
