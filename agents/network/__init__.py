"""The agent's network: torso + context -> fusion -> core -> heads."""
