"""An analysis as page, Markdown, terminal text and dictionary.

Imports analysis and what lies below. Papers and the command line may import it.
"""
