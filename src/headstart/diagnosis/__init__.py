"""What is wrong with a start: measurements, rules, findings, their picture. Imports everything below the call ``api``; the front door may import it."""
