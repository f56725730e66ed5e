"""Reports made from result objects; :mod:`cnnlive.report.text` needs rich and is imported on demand."""
