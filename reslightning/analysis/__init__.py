"""What networks and their priors do, beyond how often they are right."""
