"""The book: claims and their verdicts, numbers that are printed and checked, chapters and how they are executed."""
