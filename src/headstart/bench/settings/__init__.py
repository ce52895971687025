"""The words of an experiment: on the command line, in a file. Imports runs; papers and the command line may import it."""
