"""AlpacaEval 2.0: order of the outputs, preferences, win rates, length control. Makes no call."""
