"""Commons harvest: apples grow back near other apples; maps and rates, environment, scripted policies."""
