"""What people read: terminal output, tables, figures."""
