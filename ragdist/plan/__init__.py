"""`ragdist plan`: what a job will take, and whether it fits, before anything is started."""
