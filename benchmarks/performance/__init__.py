"""What the gateway costs, each figure beside one that anybody can measure again."""
