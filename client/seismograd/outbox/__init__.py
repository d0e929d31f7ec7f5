"""From record to durable: bounded memory, the one sender, the transport.

training thread --offer()--> queue --(sender's thread: group, encode)--> transport --> server
                               ^------------- watermarks: forget what is durable ------------'
"""
