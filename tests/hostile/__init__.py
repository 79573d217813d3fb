"""What strangers may give: files, folders, recipes, command lines and requests made to harm. Everything is generated; nothing is kept."""
