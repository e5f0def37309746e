"""What `make lab` starts JupyterLab with: its first page, its settings, and originals that stay as they are."""
