"""What every part uses: atomic writes, the console, errors."""
