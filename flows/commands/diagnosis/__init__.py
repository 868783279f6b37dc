"""`tapir doctor`: what it looks at (`checks`), and how it shows what it found (`command`)."""
