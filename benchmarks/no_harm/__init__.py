"""Never worse, shown: every network trained a little from its author's start and from auto's."""
