"""What can be played with: the reader of a published page, and widgets beside a live kernel."""
