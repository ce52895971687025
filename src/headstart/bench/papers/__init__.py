"""The papers' comparisons: protocols, published figures, reproduction. Imports the whole benchmark; the command line may import it."""
