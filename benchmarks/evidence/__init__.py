"""Evidence at lengths that matter: data in two sides that share nothing, cells, candidates, one recipe judged once."""
