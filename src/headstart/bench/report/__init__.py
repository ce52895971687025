"""An analysis as page, Markdown, terminal and dictionary. Imports analysis; papers and the command line may import it."""
