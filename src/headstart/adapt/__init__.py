"""First layers for other numbers of channels. Imports the engine and what is below it; the front door and the command line may import it."""
