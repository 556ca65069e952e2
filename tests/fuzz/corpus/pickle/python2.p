(lp0
(dp1
S'sent'
p2
S'a dog'
p3
sS'n'
p4
I5
sS'f'
F2.5
sS'l'
L900100000012L
sS't'
I01
sa.