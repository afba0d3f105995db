"""Running machine code that this processor lacks the instructions for; one module an emulator."""
