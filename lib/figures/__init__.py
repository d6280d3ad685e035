"""One function per figure, in one module per part of the story; `style` holds what they share."""
