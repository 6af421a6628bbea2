"""From the plan to what serves: fetching, judging, taking back."""
