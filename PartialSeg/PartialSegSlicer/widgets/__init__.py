"""What the user sees and clicks: the sections, rows, menus and dialogs of the panel."""
