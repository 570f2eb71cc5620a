# awk -v users=300 -v half=30 -f tests/ratings.awk: ratings of users in two groups of taste, each of which prefers its half of
# the items; the same on every machine
BEGIN {
    print "userId,movieId,rating"
    seed = 7
    for (u = 1; u <= users; u++)
        for (k = 0; k < 14; k++) {
            seed = (seed * 16807) % 2147483647
            print "u" u ",film " seed % half + (u % 2 && seed % 7 ? 0 : half) "," 1 + seed % 5
        }
}
