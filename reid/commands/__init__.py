"""What each command does once its door (`reid/<command>.py`) has accepted what was typed."""
