"""A drawn world about which everything is known: does compression before matching help, and where?"""
