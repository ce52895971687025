"""What several methods share. Imports the rooms below methods; methods alone may import it."""
